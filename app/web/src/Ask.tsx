/** Where a question is written: send or stop, voice, the choice of models, and why a question was not taken. */

import { ArrowUpOutlined, AudioOutlined } from '@ant-design/icons'
import { Sender, type SenderProps } from '@ant-design/x'
import type { SenderRef } from '@ant-design/x/es/sender/interface'
import { Button, Select, Switch, Tooltip } from 'antd'
import { type ComponentProps, type ReactNode, useEffect, useRef, useState } from 'react'
import type { Model } from './api'
import { Grow } from './Grow'
import { hasVoice, useVoice } from './voice'

export interface Trouble {
  message: string
  until: number // when it may be tried again; 0: at once
}

interface Props {
  draft: string
  onDraft: (text: string) => void
  onSend: (text: string) => void
  onStop: () => void
  answering: boolean
  sending: boolean
  placeholder: string
  limit: number
  trouble: Trouble | null
  models: Model[]
  asked: string[] // the models that are asked; two: side by side
  onAsked: (models: string[]) => void
}

const SHOW_COUNT_FROM = 0.9
const TOUCH = window.matchMedia('(pointer: coarse)')

function Question(props: ComponentProps<typeof Grow>) {
  return <Grow {...props} aria-label="您的问题" enterKeyHint="send" />
}

const components = { input: Question } as SenderProps['components']

export function Ask(props: Props) {
  const { draft, onDraft, onSend, onStop, answering, sending, placeholder, limit, trouble, models, asked, onAsked } = props
  const sender = useRef<SenderRef>(null)
  useEffect(() => {
    if (!TOUCH.matches) sender.current?.focus() // on a phone the keyboard would cover the page
  }, [])
  const voice = useVoice((text) => onDraft(draft + text))
  const tooLong = draft.length > limit
  const empty = !draft.trim()
  return (
    <div className="ask">
      {trouble && <TroubleNote {...trouble} key={trouble.until + trouble.message} />}
      <Sender
        ref={sender}
        value={draft}
        onChange={onDraft}
        onSubmit={onSend}
        onCancel={onStop}
        loading={answering}
        onKeyDown={(event) => (event.nativeEvent.isComposing ? false : undefined)}
        placeholder={placeholder}
        components={components}
        suffix={false}
        footer={(_, { components: { SendButton, LoadingButton } }) => (
          <div className="below">
            {models.length > 1 && <ModelChoice {...{ models, asked, onAsked }} />}
            <span className="space" />
            {draft.length > limit * SHOW_COUNT_FROM && (
              <span className={tooLong ? 'error' : 'quiet'}>
                {draft.length} / {limit} 字
              </span>
            )}
            {hasVoice && <VoiceButton {...voice} />}
            {answering ? (
              <LoadingButton variant="solid" shape="circle" size="large" aria-label="停止" icon={<span className="stop" />} />
            ) : (
              <SendButton
                type="primary"
                shape="circle"
                size="large"
                aria-label="发送"
                icon={<ArrowUpOutlined aria-hidden />}
                loading={sending}
                disabled={empty || tooLong || sending}
              />
            )}
          </div>
        )}
      />
    </div>
  )
}

function VoiceButton({ listening, toggle }: { listening: boolean; toggle: () => void }): ReactNode {
  return (
    <Tooltip title={listening ? '正在听，点一下结束' : '语音输入：浏览器会把语音传给浏览器厂商的服务识别'}>
      <Button
        type={listening ? 'primary' : 'text'}
        shape="circle"
        size="large"
        aria-label="语音输入"
        aria-pressed={listening}
        icon={<AudioOutlined aria-hidden />}
        onClick={toggle}
      />
    </Tooltip>
  )
}

function ModelChoice({ models, asked, onAsked }: Pick<Props, 'models' | 'asked' | 'onAsked'>) {
  const options = models.map(({ id }) => ({ value: id, label: id }))
  const [first, second] = asked
  const other = models.find(({ id }) => id !== first)!.id
  return (
    <>
      <Select aria-label="模型" size="small" variant="filled" options={options} value={first} onChange={(id) => onAsked(second && second !== id ? [id, second] : [id])} />
      <label className="compare">
        <Switch size="small" checked={!!second} onChange={(on) => onAsked(on ? [first!, other] : [first!])} /> 对比
      </label>
      {second && models.length > 2 && (
        <Select
          aria-label="对比的模型"
          size="small"
          variant="filled"
          options={options.filter(({ value }) => value !== first)}
          value={second}
          onChange={(id) => onAsked([first!, id])}
        />
      )}
    </>
  )
}

/** Say what went wrong, and count the seconds down until it may be tried again. */
function TroubleNote({ message, until }: Trouble) {
  const left = () => Math.ceil((until - Date.now()) / 1000)
  const [seconds, setSeconds] = useState(left)
  useEffect(() => {
    if (!until) return
    const timer = setInterval(() => setSeconds(left()), 1000)
    return () => clearInterval(timer)
  }, [until])
  if (until && seconds <= 0) return null
  return (
    <div className="trouble">
      <span role="alert">{message}</span>
      {until > 0 && <span aria-hidden="true"> {seconds} 秒后可以再试。</span>}
    </div>
  )
}
